/* SPDX-License-Identifier: Apache-2.0
 *
 * One translation unit, because the templates of PCL take ten seconds to compile. Machine flags (-march, -mavx) must never
 * reach it: they change Eigen's alignment, and PCL's own libraries were built without them (CMakeLists.txt sees to it).
 */
#include "pcl_shim.h"

#include <cmath>
#include <cstdio>
#include <exception>

#include <pcl/console/print.h>
#include <pcl/filters/radius_outlier_removal.h>
#include <pcl/filters/statistical_outlier_removal.h>
#include <pcl/filters/voxel_grid.h>
#include <pcl/pcl_config.h>
#include <pcl/point_types.h>
#include <pcl/registration/gicp.h>
#include <pcl/registration/icp.h>
#include <pcl/search/kdtree.h>
#include <pcl/segmentation/extract_clusters.h>
#include <pcl/segmentation/sac_segmentation.h>

namespace {

using point = pcl::PointXYZ;
using cloud = pcl::PointCloud<point>;

cloud::Ptr copy(const float *xyz, int count, int stride)
{
    cloud::Ptr out(new cloud);
    out->resize(static_cast<std::size_t>(count));
    for (int i = 0; i < count; i++) {
        const float *p = xyz + static_cast<std::size_t>(i) * static_cast<std::size_t>(stride);
        (*out)[static_cast<std::size_t>(i)] = point(p[0], p[1], p[2]);
    }
    return out;
}

/* Run 'work'; what it throws becomes a sentence. */
template <class Work> int guarded(char *why, Work work)
{
    pcl::console::setVerbosityLevel(pcl::console::L_ALWAYS); /* a library does not print */
    try {
        work();
        return 0;
    } catch (const std::exception &e) {
        std::snprintf(why, SV_PCL_WHY, "%s", e.what());
    } catch (...) {
        std::snprintf(why, SV_PCL_WHY, "an unknown failure");
    }
    return 1;
}

void mark(const pcl::Indices &kept, uint8_t *keep, int count)
{
    for (int i = 0; i < count; i++) keep[i] = 0;
    for (const auto i : kept) keep[i] = 1;
}

} // namespace

extern "C" {

int sv_pcl_shim_voxel_grid(const float *xyz, int count, int stride, float leaf, float *out, int *out_count,
                           char why[SV_PCL_WHY])
{
    return guarded(why, [&] {
        *out_count = 0;
        if (count == 0) return;
        pcl::VoxelGrid<point> filter;
        filter.setInputCloud(copy(xyz, count, stride));
        filter.setLeafSize(leaf, leaf, leaf);
        cloud result;
        filter.filter(result);
        for (const auto &p : result) {
            float *o = out + 3 * static_cast<std::size_t>((*out_count)++);
            o[0] = p.x, o[1] = p.y, o[2] = p.z;
        }
    });
}

int sv_pcl_shim_statistical(const float *xyz, int count, int stride, int neighbours, double deviations,
                            uint8_t *keep, char why[SV_PCL_WHY])
{
    return guarded(why, [&] {
        if (count == 0) return;
        pcl::StatisticalOutlierRemoval<point> filter;
        filter.setInputCloud(copy(xyz, count, stride));
        filter.setMeanK(neighbours);
        filter.setStddevMulThresh(deviations);
        pcl::Indices kept;
        filter.filter(kept);
        mark(kept, keep, count);
    });
}

int sv_pcl_shim_radius(const float *xyz, int count, int stride, double radius, int neighbours, uint8_t *keep,
                       char why[SV_PCL_WHY])
{
    return guarded(why, [&] {
        if (count == 0) return;
        pcl::RadiusOutlierRemoval<point> filter;
        filter.setInputCloud(copy(xyz, count, stride));
        filter.setRadiusSearch(radius);
        filter.setMinNeighborsInRadius(neighbours);
        pcl::Indices kept;
        filter.filter(kept);
        mark(kept, keep, count);
    });
}

int sv_pcl_shim_plane(const float *xyz, int count, int stride, double distance, double tilt, int iterations,
                      float plane[4], uint8_t *inlier, char why[SV_PCL_WHY])
{
    return guarded(why, [&] {
        pcl::SACSegmentation<point> segmentation; /* its random numbers have a fixed seed */
        segmentation.setModelType(pcl::SACMODEL_PERPENDICULAR_PLANE);
        segmentation.setAxis(Eigen::Vector3f::UnitZ());
        segmentation.setEpsAngle(tilt);
        segmentation.setMethodType(pcl::SAC_RANSAC);
        segmentation.setMaxIterations(iterations);
        segmentation.setDistanceThreshold(distance);
        segmentation.setOptimizeCoefficients(true);
        segmentation.setInputCloud(copy(xyz, count, stride));
        pcl::PointIndices inliers;
        pcl::ModelCoefficients coefficients;
        segmentation.segment(inliers, coefficients);
        if (coefficients.values.size() != 4) throw std::runtime_error("no plane was found");
        const float up = coefficients.values[2] < 0 ? -1.0f : 1.0f;
        for (std::size_t i = 0; i < 4; i++) plane[i] = up * coefficients.values[i];
        if (inlier) mark(inliers.indices, inlier, count);
    });
}

int sv_pcl_shim_clusters(const float *xyz, int count, int stride, double tolerance, int least, int most,
                         int32_t *label, int *clusters, char why[SV_PCL_WHY])
{
    return guarded(why, [&] {
        *clusters = 0;
        for (int i = 0; i < count; i++) label[i] = -1;
        if (count == 0) return;
        const cloud::Ptr points = copy(xyz, count, stride);
        pcl::search::KdTree<point>::Ptr tree(new pcl::search::KdTree<point>);
        tree->setInputCloud(points);
        pcl::EuclideanClusterExtraction<point> extraction;
        extraction.setClusterTolerance(tolerance);
        extraction.setMinClusterSize(least);
        extraction.setMaxClusterSize(most);
        extraction.setSearchMethod(tree);
        extraction.setInputCloud(points);
        std::vector<pcl::PointIndices> found;
        extraction.extract(found);
        for (const auto &cluster : found) {
            for (const auto i : cluster.indices) label[i] = *clusters;
            ++*clusters;
        }
    });
}

int sv_pcl_shim_register(const float *from, int from_count, int from_stride, const float *to, int to_count,
                         int to_stride, int generalized, double distance, int iterations, double pose[16],
                         double *fitness, int *converged, char why[SV_PCL_WHY])
{
    return guarded(why, [&] {
        pcl::IterativeClosestPoint<point, point> plain;
        pcl::GeneralizedIterativeClosestPoint<point, point> planes;
        pcl::IterativeClosestPoint<point, point> &icp = generalized ? planes : plain;
        icp.setInputSource(copy(from, from_count, from_stride));
        icp.setInputTarget(copy(to, to_count, to_stride));
        icp.setMaxCorrespondenceDistance(distance);
        icp.setMaximumIterations(iterations);
        icp.setTransformationEpsilon(1e-8);
        Eigen::Matrix4f guess;
        for (int i = 0; i < 16; i++) guess(i / 4, i % 4) = static_cast<float>(pose[i]);
        cloud aligned;
        icp.align(aligned, guess);
        const Eigen::Matrix4f result = icp.getFinalTransformation();
        for (int i = 0; i < 16; i++) {
            pose[i] = static_cast<double>(result(i / 4, i % 4));
            if (!std::isfinite(pose[i]))
                throw std::runtime_error("the registration ended in numbers that are not finite");
        }
        *fitness = icp.getFitnessScore(distance);
        *converged = icp.hasConverged();
    });
}

const char *sv_pcl_shim_version(void)
{
    return PCL_VERSION_PRETTY;
}
}
